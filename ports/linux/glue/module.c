// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The module: its node, and the coming and going of CPUs. */
#include <linux/compat.h>
#include <linux/cpuhotplug.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/reboot.h>
#include <linux/smp.h>
#include <linux/syscore_ops.h>

#include "glue.h"

static bool kvm_node;
module_param(kvm_node, bool, 0444);
MODULE_PARM_DESC(kvm_node, "Also provide /dev/kvm, if nobody else does.");

unsigned long wb_direct_map __ro_after_init;

static long system_ioctl(struct file *file, unsigned int command,
			 unsigned long argument)
{
	return waterbear_system_ioctl(command, argument);
}

static const struct file_operations system_files = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = system_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice node = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "waterbear",
	.fops = &system_files,
	.mode = 0660,
};

static struct miscdevice second_node = {
	.minor = KVM_MINOR,
	.name = "kvm",
	.fops = &system_files,
	.mode = 0660,
};

int wb_node_add(void)
{
	int error = misc_register(&node);

	if (error || !kvm_node)
		return error;
	if (misc_register(&second_node)) {
		pr_info("waterbear: /dev/kvm is somebody else's, so only /dev/waterbear is provided\n");
		kvm_node = false;
	}
	return 0;
}

void wb_node_remove(void)
{
	if (kvm_node)
		misc_deregister(&second_node);
	misc_deregister(&node);
}

static enum cpuhp_state cpu_state;

static int suspend(void)
{
	waterbear_suspend();
	return 0;
}

static struct syscore_ops sleep_ops = {
	.suspend = suspend,
	.resume = waterbear_resume,
};

static void shutdown_here(void *context)
{
	waterbear_shutdown();
}

/*
 * Firmware may not find its way with hardware virtualisation on. After a crash, kernels before 6.6
 * look at each CPU themselves. Later ones call one hypervisor and warn of a second, also where that
 * is their own KVM which will be refused: so that call is not asked for.
 */
static int shutdown(struct notifier_block *block, unsigned long event, void *data)
{
	on_each_cpu(shutdown_here, NULL, true);
	return NOTIFY_OK;
}

static struct notifier_block shutdown_block = { .notifier_call = shutdown };

int wb_watch_cpus(void)
{
	int state = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN,
					      "waterbear:online",
					      waterbear_cpu_online,
					      waterbear_cpu_offline);

	if (state < 0)
		return state;
	cpu_state = state;
	register_syscore_ops(&sleep_ops);
	register_reboot_notifier(&shutdown_block);
	return 0;
}

void wb_unwatch_cpus(void)
{
	unregister_reboot_notifier(&shutdown_block);
	unregister_syscore_ops(&sleep_ops);
	cpuhp_remove_state_nocalls(cpu_state);
}

static int __init load(void)
{
	wb_direct_map = PAGE_OFFSET;
	return waterbear_init();
}

static void __exit unload(void)
{
	waterbear_exit();
}

module_init(load);
module_exit(unload);
MODULE_LICENSE("Dual BSD/GPL");
MODULE_DESCRIPTION("Waterbear, a small hypervisor");
