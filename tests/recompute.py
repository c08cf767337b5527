"""Recomputes the books of a Switchboard data directory: every balance, every cost, everything held.

    python3 tests/recompute.py DATA_DIR

Shares no code with the server and needs Python alone. Reads switchboard.db without changing it, on one consistent
view, so that a server may run meanwhile. All amounts are integers of nano-dollars. Prints one line and exits 0 if
everything agrees; else names each row that is wrong and exits 1. The chain of hashes over the entries is BLAKE3,
which Python does not have: `switchboard ledger verify` checks it.
"""

import sqlite3
import sys
from collections import defaultdict
from pathlib import Path

SHOWN = 50
MILLION = 1_000_000


def cost(price, usage):
    """The sum over all tokens, rounded up once, and the fee of the request."""
    fresh = usage["prompt"] - usage["cached"]
    sum_ = fresh * price["input"] + usage["cached"] * price["cached_input"] + usage["output"] * price["output"]
    return -(-sum_ // MILLION) + price["per_request"]


def recompute(db):
    wrong = []

    def check(true, what):
        if not true:
            wrong.append(what)

    def rows(table):
        return [dict(row) for row in db.execute(f"SELECT * FROM {table}")]

    accounts = {row["account_id"]: row for row in rows("account")}
    holds = {row["id"]: row for row in rows("hold")}
    usage = {row["hold_id"]: row for row in rows("usage_record")}
    prices = {row["id"]: row for row in rows("price")}
    entries, charges, payments = defaultdict(list), defaultdict(list), set()
    for entry in sorted(rows("ledger_entry"), key=lambda row: (row["account_id"], row["seq"])):
        entries[entry["account_id"]].append(entry)
        if entry["kind"] == "charge" or entry["hold_id"] is not None:
            charges[entry["hold_id"]].append(entry)
        if entry["kind"] == "topup":
            payment = entry["external_ref"]
            check(payment and payment not in payments, f"top-up {payment} was credited twice, or names no payment")
            check(entry["delta"] > 0, f"top-up {payment} takes money")
            payments.add(payment)

    held, held_by_key = defaultdict(int), defaultdict(int)
    for id_, hold in holds.items():
        check(hold["amount"] >= 0, f"hold {id_}: holds less than nothing")
        if hold["state"] == "open":
            held[hold["account_id"]] += hold["amount"]
            held_by_key[hold["key_id"]] += hold["amount"]
        found = (len(charges.get(id_, [])), int(id_ in usage))
        check(found == ((1, 1) if hold["state"] == "settled" else (0, 0)),
              f"hold {id_}: {hold['state']}, with {found[0]} charges and {found[1]} usage records")

    for id_, record in usage.items():
        price, hold = prices.get(record["price_id"]), holds.get(id_)
        if price is None or hold is None:
            wrong.append(f"usage {id_}: its price or its hold does not exist")
            continue
        due, charged, lost = cost(price, record), record["charged"], record["written_off"]
        check(record["cost"] == due, f"usage {id_}: cost {record['cost']}, but its price makes {due}")
        check(charged + lost == due and min(charged, lost) >= 0, f"usage {id_}: charged {charged}, written off {lost}")
        check(price["effective_from"] <= hold["created_at"], f"usage {id_}: at a price that began after its hold")
        check(0 <= record["cached"] <= record["prompt"] and record["output"] >= 0, f"usage {id_}: impossible tokens")
        check(lost == 0 or charged >= hold["amount"], f"usage {id_}: written off before the hold was used up")
        same = all(record[name] == hold[name] for name in ("account_id", "key_id", "agent_id", "session_id"))
        check(same, f"usage {id_}: another account, key, agent or session than its hold")
    for id_, posted in charges.items():
        for entry in posted:
            where = f"entry {entry['account_id']} {entry['seq']}"
            record = usage.get(id_)
            agrees = record and (record["account_id"], -record["charged"]) == (entry["account_id"], entry["delta"])
            check(entry["kind"] == "charge" and agrees, f"{where}: disagrees with the usage of hold {id_}")

    for id_ in accounts.keys() | entries.keys() | held.keys():
        account, balance = accounts.get(id_), 0
        if account is None:
            wrong.append(f"account {id_}: does not exist, but has entries or holds")
            continue
        for number, entry in enumerate(entries[id_], start=1):
            balance += entry["delta"]
            check(entry["seq"] == number, f"account {id_}: entry {entry['seq']} stands where {number} should")
            check(entry["balance_after"] == balance,
                  f"account {id_}: entry {entry['seq']} says {entry['balance_after']}, the sum is {balance}")
            check(balance >= 0, f"account {id_}: below nothing after entry {entry['seq']}")
        has = account["available"] + account["held"]
        check(has == balance, f"account {id_}: has {has}, its entries make {balance}")
        check(account["held"] == held[id_], f"account {id_}: {account['held']} held, its open holds make {held[id_]}")
        check(account["available"] >= 0, f"account {id_}: {account['available']} available")
        last = len(entries[id_])
        check(account["last_seq"] == last, f"account {id_}: last entry {account['last_seq']}, there are {last}")
    for budget in rows("key_budget"):
        key, open_ = budget["key_id"], held_by_key[budget["key_id"]]
        check(budget["held"] == open_, f"budget of {key}: {budget['held']} held, its open holds make {open_}")

    counted = sum(map(len, entries.values()))
    return wrong, f"{len(accounts)} accounts, {counted} entries, {len(holds)} holds, {len(usage)} charges"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    file = Path(sys.argv[1]).resolve() / "switchboard.db"
    try:
        db = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, isolation_level=None)
        db.row_factory = sqlite3.Row
        db.execute("BEGIN")
        wrong, counts = recompute(db)
    except sqlite3.Error as cause:
        sys.exit(f"{file}: {cause}")
    for what in wrong[:SHOWN]:
        print(what, file=sys.stderr)
    print(f"{counts}: {f'{len(wrong)} wrong' if wrong else 'every balance and every cost agrees'}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
