package buspass.call

import rego.v1

deny contains "item_was_asked_twice" if {
	input.task.workflow == "once"
	input.call.tool == "item"
	input.history.tools.item.count >= 2
}

obligations := {"max_tokens": "many"} if input.task.workflow == "broken"

obligations := {"targets": ["third/planner-1"]} if input.task.workflow == "nowhere"

obligations := {"log": "none"} if input.task.workflow == "quiet"

obligations := {"log": "redacted"} if input.task.workflow == "masked"
