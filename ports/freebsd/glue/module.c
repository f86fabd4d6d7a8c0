// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The module: its nodes, and the machine's going to sleep and down. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/kernel.h>
#include <sys/conf.h>
#include <sys/eventhandler.h>
#include <sys/filio.h>
#include <sys/module.h>
#include <sys/proc.h>
#include <sys/reboot.h>
#include <sys/smp.h>

#include <vm/vm.h>
#include <vm/pmap.h>

#include <machine/md_var.h>
#include <machine/vmparam.h>

#include "freebsd.h"
#include "glue.h"

u_long wb_direct_map;
static struct cdev *node;
static eventhandler_tag shutdown_tag;
/* The kernel has a module unloaded that it could not load, too. */
static bool loaded;

static int
node_ioctl(struct cdev *device, u_long command, caddr_t data, int flags,
    struct thread *thread)
{
	if (command == FIONBIO || command == FIOASYNC)
		return (0);
	return (wb_answer(thread, waterbear_system_ioctl(
	    waterbear_decoded(command), *(u_long *)data)));
}

static struct cdevsw node_methods = {
	.d_version = D_VERSION,
	.d_ioctl = node_ioctl,
	.d_name = "waterbear",
};

int
wb_node_add(void)
{
	struct make_dev_args how;
	struct cdev *alias;
	int error;

	make_dev_args_init(&how);
	how.mda_flags = MAKEDEV_CHECKNAME | MAKEDEV_WAITOK;
	how.mda_devsw = &node_methods;
	how.mda_uid = UID_ROOT;
	how.mda_gid = GID_WHEEL;
	how.mda_mode = 0660;
	error = make_dev_s(&how, &node, "waterbear");
	if (error != 0)
		return (-error);
	/* It goes with the node. */
	if (make_dev_alias_p(MAKEDEV_CHECKNAME | MAKEDEV_WAITOK, &alias, node,
	    "kvm") != 0)
		printf("waterbear: /dev/kvm is somebody else's, so only "
		    "/dev/waterbear is provided\n");
	return (0);
}

void
wb_node_remove(void)
{
	destroy_dev(node);
}

static void
shutdown_here(void *context)
{
	waterbear_shutdown();
}

/* Firmware may not find its way with hardware virtualisation on. */
static void
shutdown(void *context, int how)
{
	smp_rendezvous(NULL, shutdown_here, NULL, NULL);
}

/*
 * The kernel has room for one hypervisor that wants to hear, on each CPU, of
 * sleep and waking.
 */
int
wb_watch_cpus(void)
{
	if (vmm_suspend_p != NULL || vmm_resume_p != NULL) {
		printf("waterbear: another hypervisor is loaded\n");
		return (-EBUSY);
	}
	vmm_suspend_p = waterbear_suspend;
	vmm_resume_p = waterbear_resume;
	shutdown_tag = EVENTHANDLER_REGISTER(shutdown_final, shutdown, NULL,
	    SHUTDOWN_PRI_FIRST);
	return (0);
}

void
wb_unwatch_cpus(void)
{
	EVENTHANDLER_DEREGISTER(shutdown_final, shutdown_tag);
	vmm_suspend_p = NULL;
	vmm_resume_p = NULL;
}

static int
load(void)
{
	int error;

	wb_direct_map = PHYS_TO_DMAP(0);
	error = wb_cpus_start();
	if (error != 0)
		return (error);
	error = wb_rcu_start();
	if (error == 0) {
		error = -waterbear_init();
		if (error == 0) {
			loaded = true;
			return (0);
		}
		wb_rcu_stop();
	}
	wb_cpus_stop();
	return (error);
}

static int
unload(void)
{
	int error;

	if (!loaded)
		return (0);
	error = -waterbear_exit();
	if (error != 0)
		return (error);
	loaded = false;
	wb_rcu_stop();
	wb_cpus_stop();
	return (0);
}

static int
event(module_t module, int what, void *context)
{
	switch (what) {
	case MOD_LOAD:
		return (load());
	case MOD_UNLOAD:
		return (unload());
	default:
		return (EOPNOTSUPP);
	}
}

static moduledata_t waterbear = { "waterbear", event, NULL };

/* When all CPUs run, should the boot loader bring it. */
DECLARE_MODULE(waterbear, waterbear, SI_SUB_SMP + 1, SI_ORDER_ANY);
MODULE_VERSION(waterbear, 1);
