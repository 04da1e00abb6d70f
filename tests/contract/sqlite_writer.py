"""A process that commits pairs of operations to a SQLite store and says which were answered, until it is killed."""

import asyncio
import sys

from buspass.ports.state import Absent, Applied, AtLeast, Put, Update, at
from buspass_onprem import sqlite


async def write(state, name, n):
    call = f"{name}-{n}"
    require = (AtLeast(at("left"), 1), Absent(at("by", call)))
    take = Update("head", require, {at("left"): -1}, {at("by", call): {"n": n}})
    answer = await state.apply("t", [Put(f"rec:{call}", {"call": call}), take])
    if isinstance(answer, Applied):
        sys.stdout.write(f"{call}\n")
        sys.stdout.flush()
    return answer


async def main(url, name, callers, calls, opens):
    for _ in range(opens - 1):
        await (await sqlite.open(url)).close()
    state = await sqlite.open(url)
    numbers = iter(range(calls))

    async def caller():
        for n in numbers:
            await write(state, name, n)

    await asyncio.gather(*(caller() for _ in range(callers)))
    await state.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
