#!/usr/bin/env bash
# Retrain every night at two on Kubeflow Pipelines. Run this again after a change of the config: it recreates the schedule.
set -euo pipefail
cd "$(dirname "$0")"
host=${HOST:?"set it to the URL of Kubeflow Pipelines, such as http://localhost:8080 of kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80"}
wgan-pipeline schedule delete nightly --host "$host" || echo "creating it for the first time"
wgan-pipeline schedule create nightly.toml --name nightly --cron "0 2 * * *" --host "$host" --set deploy.service_account=wgan-runner
wgan-pipeline schedule list --host "$host"
