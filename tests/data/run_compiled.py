"""Run a compiled file with KFP's local orchestrator: python -m tests.data.run_compiled FILE ROOT [ARGUMENTS].

FILE is what `compile` writes or `submit` sends; nothing else of the pipeline is known here. What a platform fills in and KFP's
local runner does not, the time when the job was made, is put in its place. Exits 0 when the run succeeded.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from components.artifacts import now


def main(file: Path, root: Path, arguments: str = "{}") -> int:
    """Run FILE with its own defaults and `arguments` (JSON); outputs go under ROOT."""
    from kfp import components, local

    document = file.read_text().split("\n---\n")[0]  # the Kubernetes parts of the second document are the cluster's business
    document = document.replace("{{$.pipeline_job_create_time_utc}}", now())
    (root / "tmp").mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(root / "tmp")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root / "steps"), workspace_root=str(root / "work"))
    pipeline = components.load_component_from_text(document)
    try:
        pipeline(**json.loads(arguments))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
