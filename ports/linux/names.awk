# Short names for Rust's symbols. The kernel keeps the names of a module's functions in memory, and
# a mangled name is five times as long as what a reader of a backtrace wants of it.
#
# Reads what `nm -p -S` says of an object and then what `nm -p -S -C` says of it; writes a list for
# `objcopy --redefine-syms`: `Type::function`, with a number behind it where there are several.
FNR == NR {
	mangled[FNR] = $NF
	next
}
mangled[FNR] ~ /^_R/ && !(mangled[FNR] in seen) {
	seen[mangled[FNR]] = 1
	name = $0
	sub(/^[0-9a-f ]* [A-Za-z] /, "", name)
	gsub(/\[[^]]*\]|->/, "", name)
	if (sub(/^core::ptr::drop_in_place::</, "", name))
		sub(/>$/, "::drop", name)
	# From the inside out: what a path is generic over, the trait that a method is of, and brackets
	# around a type.
	while (match(name, /(::|[A-Za-z0-9_])?<[^<>]*>/)) {
		inner = substr(name, RSTART, RLENGTH)
		if (inner ~ /^[A-Za-z0-9_]/)
			inner = substr(inner, 1, 1)
		else if (inner ~ /^::/)
			inner = ""
		gsub(/^<| as .*$|>$/, "", inner)
		name = substr(name, 1, RSTART - 1) inner substr(name, RSTART + RLENGTH)
	}
	gsub(/[{}]|closure#/, "", name)
	gsub(/[^A-Za-z0-9_:.]/, "", name)
	parts = split(name, part, "::")
	first = parts > 1 ? parts - 1 : 1
	while (first > 1 && part[first] ~ /^[0-9]*$/)
		first--
	short = part[first]
	for (i = first + 1; i <= parts; i++)
		short = short "::" part[i]
	if (count[short]++)
		short = short "." count[short]
	print mangled[FNR], short
}
