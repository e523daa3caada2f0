variable "project" {
  description = "The Google Cloud project."
  type        = string
}

variable "region" {
  description = "Where runs, buckets and images are. It must have the TPU: see docs/tpu.md."
  type        = string
  default     = "europe-west4"
}

variable "bucket" {
  description = "Name of the bucket for images, runs, checkpoints and models; nobody else in the world may have it."
  type        = string
}

variable "kms_key" {
  description = "Key that bucket, images and runs are encrypted with, in the same region; empty: Google's."
  type        = string
  default     = ""
  validation {
    condition     = var.kms_key == "" || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key))
    error_message = "Use projects/P/locations/REGION/keyRings/R/cryptoKeys/K."
  }
}

variable "submitters" {
  description = "Who may submit runs and make schedules, such as [\"user:someone@example.com\"]."
  type        = list(string)
  default     = []
}

variable "model_registry" {
  description = "Whether push tells Vertex AI's Model Registry of the champion (push.vertex_model)."
  type        = bool
  default     = false
}

variable "pipeline_file" {
  description = "What `wgan-pipeline compile CONFIG --target vertex -o FILE` wrote, to run on a schedule; empty: no schedule."
  type        = string
  default     = ""
}

variable "cron" {
  description = "When the schedule runs, in five fields with a time zone before them."
  type        = string
  default     = "TZ=UTC 0 2 * * *"
  validation {
    condition     = can(regex("^TZ=[^ ]+( [^ ]+){5}$", var.cron))
    error_message = "Use a zone and five fields, such as TZ=Europe/Zurich 0 2 * * *."
  }
}

variable "schedule_from" {
  description = "When the schedule begins, ISO 8601 in UTC."
  type        = string
  default     = "2027-01-01T00:00:00Z"
}
