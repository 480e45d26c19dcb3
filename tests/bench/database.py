#!/usr/bin/env python3
"""Makes a database as a shop has it, for `make bench-zram`: tests/bench/database.py FILE

160 MiB of SQLite: orders with names, addresses, times, amounts, a document in JSON, a random token and free text of
words as frequent as those of a language; two indexes. The same each time.
"""

import json
import os
import random
import sqlite3
import sys

MIB = 160
path = sys.argv[1]
if os.path.exists(path):
    sys.exit()
made = path + ".part"
if os.path.exists(made):
    os.remove(made)
chance = random.Random(14)
letters = "etaoinshrdlucmfwypvbgk"
words = ["".join(chance.choices(letters, range(len(letters), 0, -1), k=chance.randint(2, 11))) for _ in range(20000)]
# The second word is half as frequent as the first one, the third a third.
weights = [1 / (number + 1) for number in range(len(words))]
names, places = words[500:3500], words[4000:5000]
database = sqlite3.connect(made)
database.executescript("""
    pragma page_size = 8192;
    pragma journal_mode = off;
    pragma synchronous = off;
    create table orders (id integer primary key, customer text, placed text, state text, cents integer,
                         address text, document text, token blob, note text);
""")
states = ["open", "paid", "packed", "sent", "returned"]


def order(number):
    lines = [
        {"article": chance.randrange(80000), "count": chance.choice([1, 1, 1, 2, 3, 10]),
         "price": round(chance.lognormvariate(3, 1), 2)}
        for _ in range(chance.randint(1, 6))
    ]
    name = f"{chance.choice(names).title()} {chance.choice(names).title()}"
    address = f"{chance.choice(places).title()} {chance.randint(1, 200)}, {chance.randint(10000, 99999)} {chance.choice(places).title()}"
    placed = f"2026-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}T{chance.randint(0, 23):02}:{chance.randint(0, 59):02}:{chance.randint(0, 59):02}Z"
    document = json.dumps({"lines": lines, "session": f"{chance.getrandbits(64):016x}", "agent": "Mozilla/5.0 (X11; Linux x86_64)"})
    note = " ".join(chance.choices(words, cum_weights=cumulated, k=chance.randint(0, 40)))
    cents = round(100 * sum(line["price"] * line["count"] for line in lines))
    return number, name, placed, chance.choice(states), cents, address, document, chance.randbytes(16), note


cumulated, total = [], 0.0
for weight in weights:
    total += weight
    cumulated.append(total)
number = 0
while os.path.getsize(made) < MIB * 0.8 * (1 << 20):
    with database:
        database.executemany("insert into orders values (?,?,?,?,?,?,?,?,?)", map(order, range(number, number + 5000)))
    number += 5000
database.executescript("create index by_customer on orders (customer, placed); create index by_token on orders (token);")
database.close()
with open(made, "r+b") as file:
    file.truncate((os.path.getsize(made) + 4095) // 4096 * 4096)
os.rename(made, path)
