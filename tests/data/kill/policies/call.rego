package buspass.call

import rego.v1

deny contains "no_refunds_here" if input.call.tool == "refund"
