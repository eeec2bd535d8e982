"""Computing cells: session, jobs, worker pools, executors, runner, planning, progress."""
