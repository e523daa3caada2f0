# The resources of the pipeline in a project: a bucket, an image repository, an account of the steps and one that submits, and a
# schedule if pipeline_file names a compiled pipeline. Roles are minimal, and on the bucket instead of the project where possible.

locals {
  services = ["aiplatform.googleapis.com", "artifactregistry.googleapis.com", "storage.googleapis.com"]
  labels   = { app = "wgan-tpu-pipeline" }
}

resource "google_project_service" "needed" {
  for_each           = toset(local.services)
  service            = each.value
  disable_on_destroy = false
}

resource "google_storage_bucket" "wgan" {
  name                        = var.bucket
  location                    = var.region
  labels                      = local.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # The registry's pointers are created and never replaced: deleted objects can be restored.
  soft_delete_policy {
    retention_duration_seconds = 604800
  }

  # Nothing is deleted because of its age: the cache, the data history and the registry refer to old objects.
  versioning {
    enabled = true
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      days_since_noncurrent_time = 30
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key == "" ? [] : [var.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  lifecycle {
    prevent_destroy = true
  }
}

resource "google_artifact_registry_repository" "images" {
  repository_id = "wgan"
  location      = var.region
  format        = "DOCKER"
  description   = "Images of the steps: train-tpu, data, tpu-check, dataflow."
  labels        = local.labels
  kms_key_name  = var.kms_key == "" ? null : var.kms_key

  docker_config {
    immutable_tags = true
  }

  depends_on = [google_project_service.needed]
}

resource "google_service_account" "steps" {
  account_id   = "wgan-steps"
  display_name = "Steps of the WGAN pipeline"
}

resource "google_service_account" "submitter" {
  account_id   = "wgan-submitter"
  display_name = "Submits runs and schedules of the WGAN pipeline"
}

# Steps read and write the bucket. A step's launcher starts the custom job for a TPU, as this account.
resource "google_storage_bucket_iam_member" "steps_write" {
  bucket = google_storage_bucket.wgan.name
  role   = "roles/storage.objectUser"
  member = google_service_account.steps.member
}

resource "google_storage_bucket_iam_member" "steps_see_bucket" {
  bucket = google_storage_bucket.wgan.name
  role   = "roles/storage.legacyBucketReader"
  member = google_service_account.steps.member
}

resource "google_artifact_registry_repository_iam_member" "steps_pull" {
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.steps.member
}

# Only those permissions of roles/aiplatform.user that custom jobs, lineage and, with var.model_registry, model versions need.
resource "google_project_iam_custom_role" "steps" {
  role_id     = "wganSteps"
  title       = "Steps of the WGAN pipeline"
  description = "Permissions of a run in Vertex AI besides its bucket."
  permissions = concat(
    [
      "aiplatform.customJobs.create",
      "aiplatform.customJobs.get",
      "aiplatform.customJobs.cancel",
      "aiplatform.metadataStores.get",
      "aiplatform.artifacts.create",
      "aiplatform.artifacts.get",
      "aiplatform.artifacts.list",
      "aiplatform.artifacts.update",
      "aiplatform.contexts.addContextArtifactsAndExecutions",
      "aiplatform.contexts.create",
      "aiplatform.contexts.get",
      "aiplatform.contexts.list",
      "aiplatform.executions.addExecutionEvents",
      "aiplatform.executions.create",
      "aiplatform.executions.get",
      "aiplatform.executions.list",
      "aiplatform.executions.update",
      "logging.logEntries.create",
    ],
    var.model_registry ? [
      "aiplatform.models.get",
      "aiplatform.models.list",
      "aiplatform.models.update",
      "aiplatform.models.upload",
      "aiplatform.modelEvaluations.import",
      "aiplatform.modelEvaluations.list",
      "aiplatform.operations.list",
    ] : [],
  )
}

resource "google_project_iam_member" "steps" {
  project = var.project
  role    = google_project_iam_custom_role.steps.id
  member  = google_service_account.steps.member
}

resource "google_service_account_iam_member" "steps_start_jobs_as_themselves" {
  service_account_id = google_service_account.steps.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.steps.member
}

# The submitter creates runs and schedules that act as `steps`, and has no access to data itself.
resource "google_project_iam_custom_role" "submitter" {
  role_id     = "wganSubmitter"
  title       = "Submits runs of the WGAN pipeline"
  description = "Permissions of wgan-pipeline submit and schedule."
  permissions = [
    "aiplatform.contexts.addContextChildren",
    "aiplatform.contexts.create",
    "aiplatform.pipelineJobs.create",
    "aiplatform.pipelineJobs.get",
    "aiplatform.pipelineJobs.list",
    "aiplatform.pipelineJobs.cancel",
    "aiplatform.schedules.create",
    "aiplatform.schedules.delete",
    "aiplatform.schedules.get",
    "aiplatform.schedules.list",
    "aiplatform.schedules.update",
  ]
}

resource "google_project_iam_member" "submitter" {
  project = var.project
  role    = google_project_iam_custom_role.submitter.id
  member  = google_service_account.submitter.member
}

resource "google_service_account_iam_member" "submitter_acts_as_steps" {
  service_account_id = google_service_account.steps.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.submitter.member
}

# These people can impersonate the submitter; no key of the account is created.
resource "google_service_account_iam_member" "people" {
  for_each           = toset(var.submitters)
  service_account_id = google_service_account.submitter.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.value
}

resource "google_vertex_ai_schedule" "nightly" {
  count                    = var.pipeline_file == "" ? 0 : 1
  display_name             = "nightly"
  location                 = var.region
  cron                     = var.cron
  start_time               = var.schedule_from
  max_concurrent_run_count = "1"
  allow_queueing           = false

  create_pipeline_job_request {
    parent = "projects/${var.project}/locations/${var.region}"

    pipeline_job {
      display_name    = "nightly"
      pipeline_spec   = jsonencode(yamldecode(file(var.pipeline_file)))
      service_account = google_service_account.steps.email
      labels          = { pipeline = "wgan-tpu-pipeline" }

      runtime_config {
        gcs_output_directory = "gs://${google_storage_bucket.wgan.name}/root"
        failure_policy       = "PIPELINE_FAILURE_POLICY_FAIL_FAST"
      }

      dynamic "encryption_spec" {
        for_each = var.kms_key == "" ? [] : [var.kms_key]
        content {
          kms_key_name = encryption_spec.value
        }
      }
    }
  }

  depends_on = [google_project_service.needed]
}
