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

# a child acts for its parent's subject, and only where that one was proven as this workflow demands
proven if {
	input.task.subject.type == "customer"
	input.task.subject.proof == "parent"
	input.task.depth > 0
}
