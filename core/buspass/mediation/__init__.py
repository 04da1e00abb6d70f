"""What stands in the texts of a call. Finds and changes; decides nothing, and knows no policy."""
