package buspass.call

import rego.v1

deny contains "secret_item" if {
	input.call.tool == "item"
	input.call.arguments.id == "secret"
}
