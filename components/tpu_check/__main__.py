"""Run the check by hand: python -m components.tpu_check --config FILE --dataset DIR --work-dir DIR --out DIR."""

from components.common.command import main
from components.tpu_check.config import TpuCheckConfig
from components.tpu_check.run import run

if __name__ == "__main__":
    inputs = {"dataset": "dataset artifact", "work_dir": "folder in which earlier checks are cached"}
    raise SystemExit(main("tpu_check", TpuCheckConfig, run, inputs))
