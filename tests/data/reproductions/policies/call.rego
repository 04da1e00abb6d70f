package buspass.call

import rego.v1

deny contains "item_is_secret" if {
	input.call.tool == "item"
	input.call.arguments.id == "secret"
}
