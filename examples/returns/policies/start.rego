# Who may begin: a return exception is always some customer's, and the customer's own token says so.
package buspass.start

deny contains "subject_must_prove_itself" if {
	input.task.workflow == "return-exception"
	not proven
}

proven if {
	input.task.subject.type == "customer"
	input.task.subject.proof == "token"
}
