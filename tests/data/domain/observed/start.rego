package buspass.start

import rego.v1

deny contains "closed_today" if input.task.workflow == "closed"

grant := {"models": ["plan"], "tools": ["check"]} if input.task.workflow == "narrowed"
