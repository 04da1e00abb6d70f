package buspass.start

import rego.v1

deny contains "closed_today" if input.task.workflow == "closed"

deny contains "wrong_team" if input.task.metadata.team == "red"

grant := {"models": ["cheap", "gpt-9"], "tools": ["item"], "budget": {"cost": 0.5, "calls": 3, "wall": 120}, "lifetime": 60} if {
	input.task.workflow == "narrowed"
}

grant := {"tools": []} if input.task.workflow == "bare"

grant := input.task.metadata.grant if input.task.workflow == "garbled"
