output "deploy" {
  description = "The [deploy] section of a config that runs here."
  value       = <<-EOT
    [run]
    dir = "/gcs/${google_storage_bucket.wgan.name}/runs"
    [push]
    registry = "gs://${google_storage_bucket.wgan.name}/registry"
    [deploy]
    pipeline_root = "gs://${google_storage_bucket.wgan.name}/root"
    service_account = "${google_service_account.steps.email}"
    kms_key = "${var.kms_key}"
  EOT
}

output "images" {
  description = "Where to push the images."
  value       = "${google_artifact_registry_repository.images.location}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.name}"
}

output "submitter" {
  description = "The account that submits: gcloud auth application-default login --impersonate-service-account."
  value       = google_service_account.submitter.email
}
