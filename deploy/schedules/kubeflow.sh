#!/usr/bin/env bash
# Retrain every night at two on Kubeflow Pipelines. Run this again after a change of the config: it recreates the schedule.
# OVERLAY is the one of deploy/kubeflow/overlays that was applied; all have the volume `wgan` but object-store, which needs RUN_DIR.
set -euo pipefail
cd "$(dirname "$0")"
host=${HOST:?"set it to the URL of Kubeflow Pipelines, such as http://localhost:8080 of kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80"}
settings=(--set deploy.service_account=wgan-runner)
volume=(--set run.dir=/mnt/wgan --set deploy.volume_claim=wgan)
case ${OVERLAY:?"set it to shared-disk, gke, bucket-key or object-store"} in
  shared-disk) settings+=("${volume[@]}" --set ingest.source=images:/mnt/wgan/images --set push.registry=/mnt/wgan/registry) ;;
  gke) settings+=("${volume[@]}") ;;
  bucket-key) settings+=("${volume[@]}" --set deploy.google_key_secret=wgan-google-key) ;;
  object-store)
    run_dir=${RUN_DIR:?"set it to the s3:// URL of the runs"}
    settings+=(--set "run.dir=$run_dir" --set "push.registry=$run_dir/registry")
    settings+=(--set deploy.s3_secret=wgan-s3 --set "deploy.s3_endpoint=${S3_ENDPOINT:-}")
    ;;
  *) echo "kubeflow.sh: there is no overlay $OVERLAY. Use shared-disk, gke, bucket-key or object-store." >&2; exit 2 ;;
esac
# On Kubeflow, deleting a schedule would end a run of it: --wait waits for the run. Exit code 2: there is no schedule yet.
wgan-pipeline schedule delete nightly --wait --host "$host" || [ $? -eq 2 ]
wgan-pipeline schedule create nightly.toml --name nightly --cron "0 2 * * *" --host "$host" "${settings[@]}"
wgan-pipeline schedule list --host "$host"
