// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The linker's part: dependencies, initialisers, and the module's events. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/kernel.h>
#include <sys/linker.h>
#include <sys/module.h>

#include "host.h"

static struct sets module;
static const moduledata_t *data;
static int load_error;

static int
tell(int what)
{
	return (data->evhand((module_t)&data, what, data->priv));
}

/* A module that cannot be loaded is told that it goes, too. */
void
module_register_init(const void *argument)
{
	data = argument;
	load_error = tell(MOD_LOAD);
	if (load_error != 0)
		(void)tell(MOD_UNLOAD);
}

/* In the order of their numbers, or the other way round. */
static void
run(void **begin, void **end, bool backwards)
{
	struct sysinit *next, *it;
	uint64_t last = backwards ? ~0ul : 0, best, key;
	int left = end - begin;

	for (bool first = true; left > 0; first = false) {
		best = backwards ? 0 : ~0ul;
		for (void **at = begin; at != end; at++) {
			it = *at;
			key = (uint64_t)it->subsystem << 32 | it->order;
			if (!first && (backwards ? key >= last : key <= last))
				continue;
			if (backwards ? key >= best : key <= best)
				best = key;
		}
		for (void **at = begin; at != end; at++) {
			next = *at;
			key = (uint64_t)next->subsystem << 32 | next->order;
			if (key != best)
				continue;
			next->func(next->udata);
			left--;
		}
		last = best;
	}
}

/* Whether this kernel is one that the module wants. */
static bool
fits(const struct mod_depend *wanted)
{
	return (wanted->md_ver_minimum <= __FreeBSD_version &&
	    __FreeBSD_version <= wanted->md_ver_maximum);
}

int
host_load(const struct sets *sets)
{
	const struct mod_metadata *it;
	bool wants_kernel = false, has_version = false;

	module = *sets;
	for (void **at = module.metadata; at != module.metadata_end; at++) {
		it = *at;
		if (it->md_version != MDT_STRUCT_VERSION)
			return (EINVAL);
		if (it->md_type == MDT_DEPEND) {
			if (strcmp(it->md_cval, "kernel") != 0 ||
			    !fits(it->md_data))
				return (ENOEXEC);
			wants_kernel = true;
		}
		if (it->md_type == MDT_VERSION)
			has_version = true;
	}
	if (!wants_kernel || !has_version)
		return (ENOEXEC);
	data = NULL;
	run(module.inits, module.inits_end, false);
	if (data == NULL)
		panic("no module was registered");
	if (load_error != 0)
		run(module.uninits, module.uninits_end, true);
	return (load_error);
}

int
host_unload(void)
{
	int error = tell(MOD_QUIESCE);

	if (error != 0 && error != EOPNOTSUPP)
		return (error);
	error = tell(MOD_UNLOAD);
	if (error == 0)
		run(module.uninits, module.uninits_end, true);
	return (error);
}
