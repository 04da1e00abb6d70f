# What the company has decided about refunds; the route, the caps and the subject stand in buspass.yaml.
package buspass.call

# Above this a person decides, not an agent.
limit := 500

deny contains "refund_above_limit" if {
	refund
	input.call.arguments.amount > limit
}

# No more than the order cost, as this task itself has read it.
deny contains "refund_above_order_total" if {
	refund
	not covered
}

refund if {
	input.call.kind == "tool"
	input.call.tool == "refund"
}

# Whole cents on both sides: 19.99 * 100 is not 1999 in binary.
covered if {
	some fact in input.history.tools.get_order.kept
	fact.order == input.call.arguments.order_id
	round(input.call.arguments.amount * 100) <= fact.total_cents
}
