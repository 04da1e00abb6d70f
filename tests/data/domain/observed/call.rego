package buspass.call

import rego.v1

deny contains "never_on_a_monday" if {
	input.task.workflow == "policed"
	input.call.tool == "check"
}

obligations := {"targets": ["third/planner-1"]} if input.task.workflow == "untargeted"

obligations := {"max_tokens": 7} if input.task.workflow == "shortened"

obligations := {"max_tokens": "many"} if input.task.workflow == "broken"
