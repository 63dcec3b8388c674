"""Count the journals: was each order handled once, and only once, by each agent?"""

import collections
import sys

import shop

orders = len(shop.lines("orders"))
wrong = 0
for name, kinds in (("billing", 1), ("mail", 1), ("stock", 1), ("audit", 3)):
    deeds = collections.Counter(shop.lines(name))
    lost = orders * kinds - len(deeds)
    twice = sum(count - 1 for count in deeds.values())
    wrong += lost + twice
    print(f"{name:<8} {orders} orders: lost {lost}, twice {twice}")
sys.exit(1 if wrong else 0)
