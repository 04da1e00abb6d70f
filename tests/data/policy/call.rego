# What a shop might decide about calls; the vectors beside it are its proof.
package buspass.call

import data.shop.hours

limits := {"refund": 500, "voucher": 50}

deny contains "above_limit" if {
	acting
	input.call.arguments.amount > limits[input.call.tool]
}

deny contains "customer_data_leaves_the_eu" if {
	input.call.kind == "inference"
	some target in input.call.targets
	not target.region in {"eu-central-1", "westeurope"}
	some finding in input.call.findings
	finding.class == "email"
}

deny contains {"reason": "not_the_last_order", "order": input.call.arguments.order_id} if {
	input.call.tool == "refund"
	not read_it
}

deny contains "refund_runs" if {
	input.call.tool == "refund"
	input.history.tools.refund.running > 0
}

deny contains "closed" if {
	acting
	not hours.open
}

# A note is compared as it is, whatever characters it has.
deny contains "known_fraud" if input.call.arguments.note == "say \"hi\"\n"

read_it if {
	some fact in input.history.tools.get_order.kept
	fact.order == input.call.arguments.order_id
}

acting if {
	input.call.kind == "tool"
	input.call.tool in {"refund", "voucher"}
}

obligations.max_tokens := 256 if input.call.model == "classify"

obligations.targets := [target.name |
	some target in input.call.targets
	target.region == "eu-central-1"
] if {
	input.call.kind == "inference"
	input.task.metadata.residency == "de"
}

obligations.approval := true if {
	input.call.tool == "voucher"
	input.call.arguments.amount > 20
}
