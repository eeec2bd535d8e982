"""``check``: conformance tests of a method."""

from __future__ import annotations

from mmrs_bench.commands.output import say
from mmrs_bench.methods.catalogue import is_card_path, method_card
from mmrs_bench.methods.conformance import check as run_checks

EXIT_FAILED = 1


def check(*, method: str) -> int:
    """Print one line per conformance test; return 1 if one fails."""
    name, _, variant = method.partition(":")
    findings = run_checks(method_card(name), name if is_card_path(name) else "", variant or "default")
    for finding in findings:
        fault = " ".join(finding.fault.split())
        say(f"{'FAILED' if fault else 'ok':8}{finding.check}{': ' + fault if fault else ''}")
    faults = sum(bool(finding.fault) for finding in findings)
    say(f"{method}: {f'{faults} of {len(findings)} checks failed' if faults else 'conforms'}")
    return EXIT_FAILED if faults else 0
