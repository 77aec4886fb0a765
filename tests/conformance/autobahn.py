"""Runs the Autobahn test suite's cases (as `kosoku` has them) against a WebSocket that echoes: autobahn.py URL [CASE…]

Prints a line of JSON for each case. Compression is left out: the server offers none.
"""

import asyncio
import json
import os
import sys

import kosoku

COMPRESSION = ["12.*", "13.*"]

# Messages of up to 16 MiB: one address has room for a few at a time.
LARGE = ["9.*"]


async def run(url, cases, excluded, concurrency):
    try:
        return await kosoku.run_fuzzingclient(url, cases, excluded, concurrency=concurrency)
    except kosoku.FailureError as failure:
        return failure.results


async def main(url, cases):
    if cases:
        results = await run(url, cases, COMPRESSION, 1)
    else:
        results = await run(url, None, COMPRESSION + LARGE, 4) + await run(url, LARGE, None, 1)
    for result in results:
        line = {
            "case": result.case_id,
            "passed": result.passed,
            "behavior": result.behavior.value,
            "close": result.behavior_close.value,
            "expected": result.expectation,
            "detail": repr(result),
        }
        print(json.dumps(line))


asyncio.run(main(sys.argv[1], sys.argv[2:]))
sys.stdout.flush()
# Past the interpreter's own end, in which kosoku's threads are aborted now and then.
os._exit(0)
