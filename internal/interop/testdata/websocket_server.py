"""Sends every WebSocket message back, and closes as the message "close CODE REASON" says: websocket_server.py HOST:PORT"""

import asyncio
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(connection):
    try:
        async for message in connection:
            text = message if isinstance(message, str) else ""
            if text.startswith("close "):
                _, code, reason = text.split(" ", 2)
                await connection.close(int(code), reason)
                return
            await connection.send(message)
    except ConnectionClosed:
        pass


async def main():
    host, port = sys.argv[1].rsplit(":", 1)
    async with serve(echo, host, int(port), subprotocols=["echo"], max_size=8 << 20, ping_interval=0.5):
        await asyncio.Future()


asyncio.run(main())
