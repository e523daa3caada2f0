#!/usr/bin/env bash
# Retrain every night at two on Vertex AI, with train on a TPU v5e. Run this again after a change of the config: it recreates the
# schedule. deploy/vertex creates what it needs in the project.
set -euo pipefail
cd "$(dirname "$0")"
where=(--target vertex --project "${PROJECT:?"set it to the Google Cloud project"}" --region "${REGION:-europe-west4}")
tpu=(--set train.devices=tpu --set deploy.tpu_topology=v5e:2x4)
wgan-pipeline schedule delete nightly "${where[@]}" || echo "creating it for the first time"
wgan-pipeline schedule create nightly.toml --name nightly --cron "0 2 * * *" --time-zone Europe/Zurich "${where[@]}" "${tpu[@]}"
wgan-pipeline schedule list "${where[@]}"
