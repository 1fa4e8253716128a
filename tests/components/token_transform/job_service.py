"""Serve Beam's local job service for jobs of several workers: `python job_service.py PORT_FILE`.

Beam's own `local_job_service_main` runs each job on one worker, because it bypasses the code in which the
in-process runner reads `--direct_num_workers`. This service applies the flag.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import RunnerResult
from apache_beam.runners.portability.local_job_service import BeamJob, LocalJobServicer


class Job(BeamJob):
    """A job that runs on `--direct_num_workers` workers."""

    def _invoke_runner(self) -> RunnerResult:
        options = self.pipeline_options()
        runner = FnApiRunner(provision_info=self._provision_info)
        runner._num_workers = int(options.view_as(DirectOptions).direct_num_workers)
        return runner.run_via_runner_api(self._pipeline_proto, options)


if __name__ == "__main__":
    port = LocalJobServicer(beam_job_type=Job).start_grpc_server()
    draft = Path(f"{sys.argv[1]}.draft")
    draft.write_text(str(port))
    draft.rename(sys.argv[1])
    while True:
        time.sleep(60)
