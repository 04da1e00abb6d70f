"""Which target a call goes to, and what comes after a failed attempt. Knows no wire format and no ledger."""
