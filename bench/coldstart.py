"""What a cold start costs: from a fresh interpreter to the first governed answer of the Lambda handler, beside an echo.

    python bench/coldstart.py [--rounds 5]

CPU milliseconds of the whole child process, the least of the rounds: both load Lambda's own runtime client, and get the
same event. Owns the measurement; the budget itself is tests/hosts/test_cold_start.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from hotpath import CONFIG, answer, chat
from load import Load

CONTEXT = """\
import json, os, sys
import awslambdaric.bootstrap
class Context:
    function_name = "f"; memory_limit_in_mb = 512; aws_request_id = "r"
    invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:f"
    def get_remaining_time_in_millis(self): return 30000
event = json.loads(os.environ["EVENT"])
"""
ECHO = CONTEXT + "print(json.dumps({'statusCode': 200, 'body': event['body']}))"
GOVERNED = (
    CONTEXT
    + """\
from buspass_aws.handler import handler
answer = handler(event, Context())
assert answer["statusCode"] == 200, answer
"""
)
TOKEN = """\
import asyncio, json, os, sys
sys.path.insert(0, sys.argv[1])
from inprocess import LIMITS, call
from buspass.http.compose import composed
async def main():
    application = await composed(os.environ, LIMITS)
    workload = await application.mint_workload("bench")
    print(json.loads((await call(application, "/v1/tasks", workload, {"workflow": "bench"}))[1])["token"])
    await application.close()
asyncio.run(main())
"""


def child(load: Load, code: str, environ: dict[str, str]) -> float:
    """Run one, serving its upstream meanwhile; CPU milliseconds."""
    process = subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.DEVNULL)
    while True:
        found, status, used = os.wait4(process.pid, os.WNOHANG)
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0
            return (used.ru_utime + used.ru_stime) * 1000
        load.serve_for(0.005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    load = Load(answer())
    with tempfile.TemporaryDirectory(prefix="buspass-bench-") as name:
        folder = Path(name)
        file, out = folder / "buspass.yaml", folder / "buspass.json"
        file.write_text(CONFIG.format(upstream=load.upstream, durability="process", more=""))
        environ = {"PATH": os.environ["PATH"], "BUSPASS_DATA": str(folder / "data"), "UP_KEY": "sk-up-0123456789abcdef"}
        check = [sys.executable, "-m", "buspass", "check", str(file), "--compile", str(out)]
        subprocess.run(check, env=environ, check=True, stdout=subprocess.DEVNULL)
        environ["BUSPASS_CONFIG"] = str(out)
        command = [sys.executable, "-c", TOKEN, str(Path(__file__).parent)]
        token = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout.strip()
        environ["EVENT"] = json.dumps({
            "version": "2.0",
            "rawPath": "/v1/chat/completions",
            "headers": {"authorization": f"Bearer {token}", "content-type": "application/json"},
            "requestContext": {"requestId": "r", "http": {"method": "POST", "protocol": "HTTP/1.1"}},
            "body": json.dumps(chat(600)),
        })  # fmt: skip
        rows: dict[str, list[float]] = {}
        yaml = {**environ, "BUSPASS_CONFIG": str(file)}
        for _ in range(rounds):
            for label, code, given in (
                ("echo", ECHO, environ),
                ("governed", GOVERNED, environ),
                ("… from YAML", GOVERNED, yaml),
            ):
                rows.setdefault(label, []).append(child(load, code, given))
                time.sleep(0.05)
    echo = min(rows["echo"])
    for label, found in rows.items():
        print(f"{label:12s} {min(found):6.0f} ms of CPU, {min(found) / echo:.1f} times the echo")


if __name__ == "__main__":
    main()
