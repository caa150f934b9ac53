"""What a user calls: compile(), the command line, front ends, pipelines, the ledger, reports."""
