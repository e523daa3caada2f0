#!/usr/bin/env bash
# Retrain every night at two on Vertex AI, with train on a TPU v5e. Run again after the config has changed: the schedule is made anew.
# What it needs in the project is made by deploy/vertex.
set -euo pipefail
cd "$(dirname "$0")"
where=(--target vertex --project "${PROJECT:?"the Google Cloud project"}" --region "${REGION:-europe-west4}")
tpu=(--set train.devices=tpu --set deploy.tpu_topology=v5e:2x4)
wgan-pipeline schedule delete nightly "${where[@]}" || echo "it is made for the first time"
wgan-pipeline schedule create nightly.toml --name nightly --cron "0 2 * * *" --time-zone Europe/Zurich "${where[@]}" "${tpu[@]}"
wgan-pipeline schedule list "${where[@]}"
