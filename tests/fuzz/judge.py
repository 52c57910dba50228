"""What an answer must be, whatever the input was."""

import re

LONGEST = 300
_PROGRESS = re.compile(r"run \d+ of \d+:|\d+ of \d+ runs have ended before")
_ENDS = (0, 2, 3, 4)
"""Done; the user's to mend; diverged; the disk's."""


def fault_of(answer, before, after, resumes=False):
    """What is wrong with it, in a line, or "". ``before``, ``after``: the files there were and are.

    ``resumes``: it goes on with what is there, so it may have said and written something before it finds the mistake.
    """
    fault = _of_its_end(answer, after) or _of_its_words(answer, resumes)
    if not fault and answer.code == 2 and before != after and not resumes:
        fault = f"refused, and yet wrote {sorted(after - before)[:3]} or removed {sorted(before - after)[:3]}"
    return fault


def _of_its_end(answer, after):
    if answer.code is None:  # a run that has begun may last
        return "" if any(name.endswith("environment.json") for name in after) else "no answer in time"
    if answer.code < 0:
        return f"ended by signal {-answer.code}"
    if "Traceback (most recent call last)" in answer.err:
        return f"traceback: {answer.err.strip().splitlines()[-1][:200]}"
    return "" if answer.code in _ENDS else f"exit code {answer.code}: {answer.err[-200:]}"


def _of_its_words(answer, resumes):
    lines = [line for line in answer.err.splitlines() if not (resumes and _PROGRESS.match(line))]
    if warned := next((line for line in lines if re.search(r"\b\w*Warning\b", line)), ""):
        return f"a library's warning: {warned[:200]}"
    if long := next((line for line in lines if len(line) >= LONGEST and "rounds/s" not in line), ""):
        return f"a line of {len(long)} characters: {long[:100]}"
    if answer.code == 2 and len(lines) != 1:
        return f"{len(lines)} lines for a mistake: {' | '.join(lines)[-200:]}"
    return ""
