"""A backend that keeps orders, publishes each change once it is stored, and signs tokens for its page.

    uvicorn app:app --port 3000
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import time
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel

EVENTS_URL = os.environ.get("EVENTS_URL", "http://127.0.0.1:8080")
SECRET = Path(os.environ.get("EVENTS_SECRET_FILE", "secret")).read_bytes().removesuffix(b"\n").removesuffix(b"\r")

TOKEN_SECONDS = 600
ATTEMPTS = 5


def sign(**claims):
    """A JWT, signed by HS256."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    claims["exp"] = int(time.time()) + TOKEN_SECONDS
    signed = b".".join(part(json.dumps(value).encode()) for value in ({"alg": "HS256", "typ": "JWT"}, claims))
    return b".".join((signed, part(hmac.new(SECRET, signed, hashlib.sha256).digest()))).decode()


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with httpx.AsyncClient(base_url=EVENTS_URL, timeout=10) as app.state.events:
        yield


app = FastAPI(lifespan=lifespan)

# In place of a database. With one: store the order and a row "to be published" in one transaction, publish after it, then delete the
# row; after a crash, publish the rows that are left, with the same ids.
orders: dict[str, dict] = {}


async def publish(topic: str, event: str, data: object, id: str) -> str:
    """Publishes one event. With its id a repetition is stored once, so every failure that may pass is repeated."""
    headers = {"Authorization": f"Bearer {sign(sub='orders', publish=['orders.>'])}"}
    body = {"topic": topic, "event": event, "data": data, "id": id}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            response = await app.state.events.post("/v1/events", json=body, headers=headers)
        except httpx.TransportError:
            if attempt == ATTEMPTS:
                raise
        else:
            if response.status_code == 201:
                return response.json()["cursor"]
            if attempt == ATTEMPTS or response.status_code < 500 and response.status_code != 429:
                raise HTTPException(502, response.json()["error"]["message"])
        await asyncio.sleep(0.2 * 2**attempt)


class Order(BaseModel):
    item: str = "something"


@app.post("/orders", status_code=201)
async def create(order: Order):
    stored = {"id": str(uuid.uuid4()), "item": order.item, "status": "created"}
    orders[stored["id"]] = stored
    cursor = await publish(f"orders.{stored['id']}.status", "created", {"item": order.item}, f"{stored['id']}-created")
    return {**stored, "cursor": cursor}


@app.post("/orders/{id}/approve")
async def approve(id: str):
    if id not in orders:
        raise HTTPException(404, "there is no such order")
    orders[id]["status"] = "approved"
    cursor = await publish(f"orders.{id}.status", "approved", {"item": orders[id]["item"]}, f"{id}-approved")
    return {**orders[id], "cursor": cursor}


@app.get("/token")
async def token(response: Response):
    """What a page presents to the event server. Check your session here, and grant what its user may read."""
    response.headers["Cache-Control"] = "no-store"
    return {"token": sign(sub="visitor", subscribe=["orders.>"])}
