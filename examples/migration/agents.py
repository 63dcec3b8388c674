"""Week 3: the agents, with forebay's base class in the place of the shop's own. Their work stays the same."""

import shop

from forebay.agents import BaseAgent


class Billing(BaseAgent):
    name = "billing"
    event_types = ("order_placed",)

    async def process_event(self, event_type, data):
        shop.note(self.name, event_type, data["order_id"])
        await self.publish("order_billed", data)


class Mail(BaseAgent):
    name = "mail"
    event_types = ("order_billed",)

    async def process_event(self, event_type, data):
        shop.note(self.name, event_type, data["order_id"])
        await self.publish("mail_sent", data)


class Stock(BaseAgent):
    name = "stock"
    event_types = ("order_placed",)

    async def process_event(self, event_type, data):
        shop.note(self.name, event_type, data["order_id"])


class Audit(BaseAgent):
    name = "audit"
    event_types = ("order_placed", "order_billed", "mail_sent")

    async def process_event(self, event_type, data):
        shop.note(self.name, event_type, data["order_id"])
