#!/bin/sh
# The smallest governed agent, in curl alone: a task, one thought, one action, the bill.
# Needs BUSPASS_WORKLOAD_TOKEN (`buspass up` prints one); BUSPASS_URL is the local gateway unless set.
set -eu

gateway=${BUSPASS_URL:-http://127.0.0.1:8700}
: "${BUSPASS_WORKLOAD_TOKEN:?copy the export line that 'buspass up' prints}"

# field EXPRESSION [ARG]: reads JSON as `it`, prints a part of it. What a model said may be `arg`, never the expression.
field() { python3 -c '
import json, sys
it, arg = json.load(sys.stdin), sys.argv[-1]
part = eval(sys.argv[1])
print(part if isinstance(part, str) else json.dumps(part))' "$@"; }

# call TOKEN METHOD URL [BODY]: prints the answer; a refusal goes to standard error, and ends the agent
call() {
    said=$(curl --silent --show-error --noproxy 127.0.0.1 --fail-with-body --request "$2" "$3" \
        --header "Authorization: Bearer $1" --header 'Content-Type: application/json' ${4:+--data "$4"}) ||
        { echo "$said" >&2; return 1; }
    printf %s "$said"
}

# 1. Prove who you are, once. What comes back is a task with a token of its own and a budget.
started=$(call "$BUSPASS_WORKLOAD_TOKEN" POST "$gateway/v1/tasks" '{"workflow": "example", "budget": {"cost": 0.10}}')
task=$(printf %s "$started" | field 'it["task"]["id"]')
token=$(printf %s "$started" | field 'it["token"]')
base=$(printf %s "$started" | field 'it["base_url"]')
echo "task    $task"

# 2. What may this task use?
models=$(call "$token" GET "$base/models")
echo "models  $(printf %s "$models" | field '", ".join(model["id"] for model in it["data"])')"
tools=$(call "$token" GET "$base/tools")
echo "tools   $(printf %s "$tools" | field '", ".join(tool["function"]["name"] for tool in it["data"])')"

# 3. Think: a chat completion in OpenAI's format, with the tools as they were given.
functions=$(printf %s "$tools" | field '[{"type": "function", "function": tool["function"]} for tool in it["data"]]')
answer=$(call "$token" POST "$base/chat/completions" \
    '{"model": "chat", "messages": [{"role": "user", "content": "How many of S-100 are in stock?"}], "tools": '"$functions"'}')
echo "thought $(printf %s "$answer" | field 'it["choices"][0]["message"]["content"] or ""')"

# 4. Act: the model asked for a tool call; its id says which thought causes this action.
asked='it["choices"][0]["message"]["tool_calls"][0]'
name=$(printf %s "$answer" | field "$asked"'["function"]["name"]')
body=$(printf %s "$answer" | field '{"arguments": json.loads('"$asked"'["function"]["arguments"]), "tool_call_id": '"$asked"'["id"]}')
url=$(printf %s "$tools" | field 'next(tool["url"] for tool in it["data"] if tool["function"]["name"] == arg)' "$name")
acted=$(call "$token" POST "$url" "$body")
echo "action  $name $(printf %s "$acted" | field 'it["result"]')"

# 5. End the task. The answer is the bill.
ended=$(call "$token" POST "$base/tasks/$task/complete" '{"reason": "the stock is known"}')
echo "bill    \$$(printf %s "$ended" | field '"%.6f" % it["budget"]["spent"]["cost"]') for $(printf %s "$ended" | field 'it["budget"]["spent"]["calls"]') calls"
