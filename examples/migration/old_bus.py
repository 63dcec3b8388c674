"""The bus that the shop began with: in this process, without a memory."""

import asyncio


class OldBus:
    """Calls each handler in a task of its own. Events in flight are lost when the process dies."""

    def __init__(self):
        self.handlers = {}
        self.tasks = set()

    def subscribe(self, event_type, handler):
        self.handlers.setdefault(event_type, []).append(handler)

    async def publish(self, event_type, source, data):
        for handler in self.handlers.get(event_type, []):
            task = asyncio.create_task(self._call(handler, event_type, source, data))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _call(self, handler, event_type, source, data):
        try:
            await handler(event_type, source, data)
        except Exception as error:
            print(f"{event_type} failed: {error}")

    async def close(self):
        while self.tasks:
            await asyncio.gather(*self.tasks)
