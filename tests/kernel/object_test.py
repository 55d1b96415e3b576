"""What Linux 6.1's verifier refuses and a newer one takes, told from the programs' object alone: a loop that falls into its
head (check_cfg wants a back edge to be a jump), and a chain of calls whose stacks, each in whole 32 bytes, are over 512.
`python3 object_test.py packet.bpf.o llvm-objdump`; its own examples come first."""

import re
import subprocess
import sys

MOST_STACK, ROUNDED_TO = 512, 32


def disassemble(objdump, path):
    """By function: its instructions by number, and whom each call calls."""
    text = subprocess.run([objdump, "-d", "-r", "--no-show-raw-insn", path], capture_output=True, text=True, check=True)
    return parse(text.stdout)


def parse(text):
    functions, calls, places, name, last, section = {}, {}, {}, None, None, ".text"
    for line in text.splitlines():
        if heading := re.match(r"^Disassembly of section (\S+):", line):
            section = heading[1]
        elif label := re.match(r"^([0-9a-f]+) <(\w+)>:", line):
            if not label[2].startswith("LBB"):
                name = label[2]
                functions[name], calls[name] = {}, {}
                places[section, int(label[1], 16)] = name
        elif relocation := re.match(r"^\s*[0-9a-f]+:\s+R_BPF_\w+\s+(\S+)", line):
            calls[name][last] = relocation[1]  # or a map, which is no function
        elif instruction := re.match(r"^\s*(\d+):\s+(\S.*)$", line):
            last = int(instruction[1])
            functions[name][last] = re.sub(r"\s*<[^<>]*>$", "", instruction[2])
    for name, called in calls.items():
        for at, callee in called.items():  # a function that a helper is to call: by its place
            if callee.startswith(".") and (place := re.search(r"= (\d+) ll$", functions[name][at])):
                called[at] = places[callee, int(place[1])]
    return functions, calls


def successors(code, after, at):
    """Where an instruction leads, and whether by a jump."""
    text = code[at]
    if text.startswith("exit"):
        return []
    jump = re.search(r"goto ([+-]\d+)", text)
    target = [(at + 1 + int(jump[1]), True)] if jump else []
    if text.startswith("goto"):
        return target
    return ([(after[at], False)] if at in after else []) + target


def falls_into_heads(code):
    """Instructions that are no jump and lead to the head of a loop, as the kernel's depth-first walk meets them."""
    order = sorted(code)
    after = dict(zip(order, order[1:]))
    open_, done, found = {order[0]}, set(), []
    stack = [(order[0], iter(successors(code, after, order[0])))]
    while stack:
        at, edges = stack[-1]
        for to, jumped in edges:
            if to in open_ and not jumped and "goto" not in code[at]:
                found.append(at)
            if to not in open_ and to not in done:
                open_.add(to)
                stack.append((to, iter(successors(code, after, to))))
                break
        else:
            open_.discard(at)
            done.add(at)
            stack.pop()
    return found


def stack_of(code):
    depths, frames = [1], set()  # and the registers that point to the end of the frame
    for text in code.values():
        depths += [int(depth) for depth in re.findall(r"r10 - (\d+)", text)]
        if below := re.match(r"(r\d) \+= -(\d+)$", text):
            depths += [int(below[2])] if below[1] in frames else []
        if changed := re.match(r"(r\d) ", text):
            frames.discard(changed[1])
        if copied := re.match(r"(r\d) = r10$", text):
            frames.add(copied[1])
    return -(-max(depths) // ROUNDED_TO) * ROUNDED_TO


def deepest_chain(name, functions, calls):
    chains = [deepest_chain(callee, functions, calls) for callee in set(calls[name].values()) if callee in functions]
    stack, chain = max(chains, default=(0, []))
    return stack + stack_of(functions[name]), [f"{name} {stack_of(functions[name])}", *chain]


def objections(functions, calls):
    for name, code in functions.items():
        for at in falls_into_heads(code):
            yield f"{name}: instruction {at}, {code[at]!r}, falls into the head of a loop"
    called = {callee for by_place in calls.values() for callee in by_place.values()}
    for name in functions:
        if name in called:
            continue
        stack, chain = deepest_chain(name, functions, calls)
        if stack > MOST_STACK:
            yield f"{stack} bytes of stack: {' -> '.join(chain)}"


EXAMPLE = """
0000000000000000 <callee>:
       0:\tr1 = 0
       1:\tr1 += 1
       2:\tif r1 < 9 goto -2 <LBB0_1>
       3:\texit
0000000000000000 <entry>:
       0:\tr2 = r10
       1:\tr2 += -{deep}
       2:\t*(u64 *)(r10 - 8) = r1
       3:\tcall -1
\t\t0000000000000018:  R_BPF_64_32\tcallee
       4:\texit
"""
FALLS = """
0000000000000000 <loop>:
       0:\tgoto +1 <LBB0_2>
       1:\tr1 += 1
       2:\tr3 = r1
       3:\tif r1 < 9 goto -3 <LBB0_1>
       4:\texit
"""


def check_itself():
    assert not list(objections(*parse(EXAMPLE.format(deep=480))))
    told = list(objections(*parse(EXAMPLE.format(deep=488))))
    assert len(told) == 1 and told[0].startswith("544 bytes of stack: entry 512 -> callee 32"), told
    told = list(objections(*parse(FALLS)))
    assert len(told) == 1 and "instruction 1" in told[0], told


def main():
    if "NOTFOUND" in sys.argv[2]:
        print("skipped: llvm-objdump is not here; scripts/setup.sh --test brings it")
        return 77
    check_itself()
    found = list(objections(*disassemble(sys.argv[2], sys.argv[1])))
    for objection in found:
        print(f"{sys.argv[1]}: Linux 6.1 would refuse this: {objection}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
