terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 7.46" # 8 has no google_vertex_ai_schedule
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region
}
