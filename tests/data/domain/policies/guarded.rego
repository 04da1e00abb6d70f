package buspass.call

import rego.v1

deny contains "amount_too_high" if {
	input.task.workflow == "guarded"
	input.call.tool == "pay"
	input.call.arguments.amount > 100
}

deny contains "item_is_secret" if {
	input.call.tool == "item"
	input.call.arguments.id == "secret"
}

obligations := {"targets": ["first/planner-1"], "max_tokens": 50} if {
	input.task.workflow == "guarded"
	input.call.kind == "inference"
}
