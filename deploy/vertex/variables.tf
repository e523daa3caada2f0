variable "project" {
  description = "The Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of runs, bucket and images; it must have the TPU: see docs/tpu.md."
  type        = string
  default     = "europe-west4"
}

variable "bucket" {
  description = "Name of the bucket for images, runs, checkpoints and models; it must be globally unique."
  type        = string
}

variable "kms_key" {
  description = "Encryption key of bucket, images and runs, in the same region; empty: Google's."
  type        = string
  default     = ""
  validation {
    condition     = var.kms_key == "" || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key))
    error_message = "Use projects/P/locations/REGION/keyRings/R/cryptoKeys/K."
  }
}

variable "submitters" {
  description = "Who may submit runs and create schedules, such as [\"user:someone@example.com\"]."
  type        = list(string)
  default     = []
}

variable "model_registry" {
  description = "Whether push updates Vertex AI's Model Registry (push.vertex_model)."
  type        = bool
  default     = false
}

variable "pipeline_file" {
  description = "File that `wgan-pipeline compile CONFIG --target vertex -o FILE` wrote, to run on a schedule; empty: no schedule."
  type        = string
  default     = ""
}

variable "cron" {
  description = "When the schedule runs: a time zone and five cron fields."
  type        = string
  default     = "TZ=UTC 0 2 * * *"
  validation {
    condition     = can(regex("^TZ=[^ ]+( [^ ]+){5}$", var.cron))
    error_message = "Use a time zone and five fields, such as TZ=Europe/Zurich 0 2 * * *."
  }
}

variable "schedule_from" {
  description = "Start of the schedule, ISO 8601 in UTC."
  type        = string
  default     = "2027-01-01T00:00:00Z"
}
