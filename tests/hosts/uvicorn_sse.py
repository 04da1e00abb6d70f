"""The streaming toy application served as it is, as the on-prem host serves the gateway."""

import asyncio
import os

from sse import start

from buspass.model import Limits
from buspass.testing.loopback import serve


async def main():
    limits = Limits(request_bytes=20 * 1024 * 1024, response_bytes=200 * 1024 * 1024, first_byte=120.0, total=600.0)
    await serve(await start(os.environ, limits), port=0)


asyncio.run(main())
