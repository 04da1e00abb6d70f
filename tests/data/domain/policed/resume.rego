package buspass.resume

import rego.v1

deny contains "no_second_worker" if input.task.metadata.once == true

grant := {"tools": []} if input.task.workflow == "bare"
