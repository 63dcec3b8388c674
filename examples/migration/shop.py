"""A shop with four agents, as they were written for the old bus."""

import asyncio
import itertools
import os
from pathlib import Path

JOURNAL = Path(os.environ.get("SHOP_JOURNAL", "journal"))


def note(name, *words):
    """Write a line into a journal: the deeds of this shop."""
    JOURNAL.mkdir(exist_ok=True)
    with (JOURNAL / name).open("a") as journal:
        journal.write(" ".join(str(word) for word in words) + "\n")


def lines(name):
    path = JOURNAL / name
    return path.read_text().splitlines() if path.exists() else []


class Agent:
    name = ""
    event_types = ()

    async def initialize(self, bus):
        self.bus = bus
        for event_type in self.event_types:
            bus.subscribe(event_type, self.on_event)

    async def on_event(self, event_type, source, data):
        await self.process_event(event_type, data)

    async def process_event(self, event_type, data):
        note(self.name, event_type, data["order_id"])

    async def publish(self, event_type, data):
        await self.bus.publish(event_type, self.name, data)


class Billing(Agent):
    name = "billing"
    event_types = ("order_placed",)

    async def process_event(self, event_type, data):
        await super().process_event(event_type, data)
        await self.publish("order_billed", data)


class Mail(Agent):
    name = "mail"
    event_types = ("order_billed",)

    async def process_event(self, event_type, data):
        await super().process_event(event_type, data)
        await self.publish("mail_sent", data)


class Stock(Agent):
    name = "stock"
    event_types = ("order_placed",)


class Audit(Agent):
    name = "audit"
    event_types = ("order_placed", "order_billed", "mail_sent")


async def start(bus):
    """The four agents, on a bus."""
    for agent in (Billing(), Mail(), Stock(), Audit()):
        await agent.initialize(bus)


async def take_orders(bus, closed):
    """Publish orders until the shop is closed, each under the next number."""
    first = len(lines("orders"))
    for order_id in itertools.count(first):
        if closed.is_set():
            return
        await bus.publish("order_placed", "shop", {"order_id": order_id})
        note("orders", order_id)
        await asyncio.sleep(0.002)
