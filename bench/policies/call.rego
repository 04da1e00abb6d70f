# Sixty lines as a shop might write them: the module of the bench. It reads no history and no clock: one that does makes
# every hold ask for the task's version.
package buspass.call

limits := {"refund": 500, "voucher": 50, "credit": 200}

regions := {"eu-central-1", "westeurope", "fra1"}

deny contains "above_limit" if {
	acting
	input.call.arguments.amount > limits[input.call.tool]
}

deny contains "amount_is_not_positive" if {
	acting
	input.call.arguments.amount <= 0
}

deny contains "customer_data_leaves_the_eu" if {
	inferring
	some finding in input.call.findings
	finding.class in {"email", "phone", "iban"}
	some target in input.call.targets
	not target.region in regions
}

deny contains "card_numbers_stay_here" if {
	some finding in input.call.findings
	finding.class == "card"
	finding.count > 0
}

deny contains "too_long_for_a_trial" if {
	inferring
	input.task.metadata.plan == "trial"
	input.call.bytes > 65536
}

deny contains "no_subject" if {
	acting
	not input.task.subject.id
}

deny contains "known_fraud" if input.call.arguments.note == "say \"hi\""

inferring if input.call.kind == "inference"

acting if {
	input.call.kind == "tool"
	input.call.tool in {"refund", "voucher", "credit"}
}

obligations.max_tokens := 256 if input.call.model == "classify"

obligations.approval := true if {
	input.call.tool == "voucher"
	input.call.arguments.amount > 20
}
