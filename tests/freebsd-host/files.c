// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Descriptors, nodes, and who wants to hear of a shutdown. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/conf.h>
#include <sys/eventhandler.h>
#include <sys/fcntl.h>
#include <sys/file.h>
#include <sys/filedesc.h>
#include <sys/proc.h>
#include <sys/stdarg.h>

#include "host.h"

/* Guards the descriptors of all processes. */
static volatile u_int tables;

static void
lock_tables(void)
{
	uint64_t begin = 0;

	while (atomic_cmpset_acq_int(&tables, 0, 1) == 0)
		host_spin(&begin, "the descriptors");
}

static void
unlock_tables(void)
{
	atomic_store_rel_int(&tables, 0);
}

/* Takes a file out of its place; NULL if it is another one. */
static struct file *
take(struct file **place, struct file *wanted)
{
	struct file *file;

	lock_tables();
	file = *place;
	if (wanted != NULL && file != wanted)
		file = NULL;
	if (file != NULL)
		*place = NULL;
	unlock_tables();
	return (file);
}

int
falloc_caps(struct thread *td, struct file **result, int *number, int flags,
    struct filecaps *rights)
{
	struct file **place, *file;
	int error = EMFILE;

	SLEEP_RULE();
	if (host_fails())
		return (ENFILE);
	file = bare_alloc(sizeof(*file), sizeof(void *));
	/* The table's and the caller's. */
	file->f_count = 2;
	lock_tables();
	for (int i = 0; i < DESCRIPTORS && error != 0; i++) {
		place = host_descriptor(host_process(td), i);
		if (*place != NULL)
			continue;
		*place = file;
		*result = file;
		*number = i;
		error = 0;
	}
	unlock_tables();
	if (error == 0)
		COUNT(files, 1);
	else
		bare_free(file, sizeof(*file), sizeof(void *));
	return (error);
}

void
finit(struct file *file, u_int flags, short kind, void *data,
    const struct fileops *methods)
{
	file->f_data = data;
	file->f_flag = flags;
	file->f_type = kind;
	atomic_store_rel_ptr((volatile uintptr_t *)&file->f_ops,
	    (uintptr_t)methods);
}

int
_fdrop(struct file *file, struct thread *td)
{
	int error = 0;

	SLEEP_RULE();
	if (file->f_count != 0)
		panic("a file goes that is in use");
	if (file->f_ops != NULL)
		error = file->f_ops->fo_close(file, td);
	COUNT(files, -1);
	bare_free(file, sizeof(*file), sizeof(void *));
	return (error);
}

void
fdclose(struct thread *td, struct file *file, int number)
{
	SLEEP_RULE();
	if (take(host_descriptor(host_process(td), number), file) != NULL)
		fdrop(file, td);
}

/* The file of a descriptor, held. */
struct file *
host_file(struct thread *td, int number)
{
	struct file *file;

	if (number < 0 || number >= DESCRIPTORS)
		return (NULL);
	lock_tables();
	file = *host_descriptor(host_process(td), number);
	if (file != NULL)
		refcount_acquire(&file->f_count);
	unlock_tables();
	return (file);
}

int
host_close(struct thread *td, struct file **place)
{
	struct file *file = take(place, NULL);

	return (file == NULL ? EBADF : fdrop(file, td));
}

/* What a file of ours does not do. */
int
invfo_rdwr(struct file *file, struct uio *uio, struct ucred *ucred, int flags,
    struct thread *td)
{
	return (EOPNOTSUPP);
}

int
invfo_truncate(struct file *file, off_t size, struct ucred *ucred,
    struct thread *td)
{
	return (EINVAL);
}

int
invfo_poll(struct file *file, int events, struct ucred *ucred,
    struct thread *td)
{
	return (0);
}

int
invfo_kqfilter(struct file *file, struct knote *note)
{
	return (EINVAL);
}

int
invfo_chmod(struct file *file, mode_t mode, struct ucred *ucred,
    struct thread *td)
{
	return (EINVAL);
}

int
invfo_chown(struct file *file, uid_t user, gid_t group, struct ucred *ucred,
    struct thread *td)
{
	return (EINVAL);
}

int
invfo_sendfile(struct file *file, int socket, struct uio *header,
    struct uio *trailer, off_t offset, size_t size, off_t *sent, int flags,
    struct thread *td)
{
	return (EINVAL);
}

int
file_kcmp_generic(struct file *one, struct file *other, struct thread *td)
{
	return (one != other);
}

/* Nodes. */
#define	NODES	4
static struct cdev nodes[NODES];

struct cdev *
host_node(const char *name)
{
	for (int i = 0; i < NODES; i++)
		if ((nodes[i].si_flags & SI_NAMED) != 0 &&
		    strcmp(nodes[i].si_name, name) == 0)
			return (&nodes[i]);
	return (NULL);
}

static int
new_node(struct cdev **result, struct cdevsw *methods, struct cdev *parent,
    const char *name)
{
	struct cdev *node = nodes;

	if (host_node(name) != NULL)
		return (EEXIST);
	while ((node->si_flags & SI_NAMED) != 0)
		if (++node == nodes + NODES)
			panic("the test host has few nodes");
	*node = (struct cdev) { .si_flags = SI_NAMED, .si_devsw = methods,
	    .si_parent = parent };
	snprintf(node->si_name, sizeof(node->si_name), "%s", name);
	*result = node;
	COUNT(nodes, 1);
	return (0);
}

void
make_dev_args_init_impl(struct make_dev_args *args, size_t size)
{
	if (size != sizeof(*args))
		panic("these are other arguments of make_dev_s");
	memset(args, 0, size);
	args->mda_size = size;
}

int
make_dev_s(struct make_dev_args *args, struct cdev **result, const char *name,
    ...)
{
	SLEEP_RULE();
	if (args->mda_devsw->d_version != D_VERSION)
		panic("a driver of another version");
	if (host_fails())
		return (ENXIO);
	return (new_node(result, args->mda_devsw, NULL, name));
}

int
make_dev_alias_p(int flags, struct cdev **result, struct cdev *node,
    const char *name, ...)
{
	SLEEP_RULE();
	if (host_fails())
		return (EEXIST);
	return (new_node(result, node->si_devsw, node, name));
}

/* Who has it open keeps the node, but not the driver. */
void
destroy_dev(struct cdev *node)
{
	SLEEP_RULE();
	for (int i = 0; i < NODES; i++)
		if (&nodes[i] == node || nodes[i].si_parent == node) {
			if ((nodes[i].si_flags & SI_NAMED) == 0)
				continue;
			nodes[i].si_devsw = NULL;
			nodes[i].si_flags = 0;
			COUNT(nodes, -1);
		}
}

static int
node_ioctl(struct file *file, u_long command, void *data, struct ucred *ucred,
    struct thread *td)
{
	struct cdev *node = file->f_data;

	if (node->si_devsw == NULL)
		return (ENXIO);
	return (node->si_devsw->d_ioctl(node, command, data, FREAD | FWRITE,
	    td));
}

static int
node_close(struct file *file, struct thread *td)
{
	return (0);
}

static const struct fileops node_methods = {
	.fo_ioctl = node_ioctl,
	.fo_close = node_close,
};

int
host_open(struct thread *td, const char *name)
{
	struct cdev *node = host_node(name);
	struct file *file;
	int error, number;

	if (node == NULL)
		return (-ENOENT);
	error = falloc_caps(td, &file, &number, 0, NULL);
	if (error != 0)
		return (-error);
	finit(file, FREAD | FWRITE, DTYPE_VNODE, node, &node_methods);
	fdrop(file, td);
	return (number);
}

/* There is one list, and one who listens. */
static struct eventhandler_entry_shutdown_final listener;
static struct eventhandler_list *const list = (void *)&listener;

eventhandler_tag
eventhandler_register(struct eventhandler_list *to, const char *name,
    void *call, void *argument, int priority)
{
	SLEEP_RULE();
	if (to != NULL || strcmp(name, "shutdown_final") != 0)
		panic("there is no news of %s", name);
	if (listener.eh_func != NULL)
		panic("somebody listens already");
	listener.eh_func = (shutdown_fn)call;
	listener.ee.ee_arg = argument;
	COUNT(handlers, 1);
	return (&listener.ee);
}

struct eventhandler_list *
eventhandler_find_list(const char *name)
{
	BLOCK_RULE();
	return (list);
}

void
eventhandler_deregister(struct eventhandler_list *from, eventhandler_tag tag)
{
	SLEEP_RULE();
	if (tag == NULL)
		panic("all that listen are taken off the list");
	if (tag != &listener.ee || listener.eh_func == NULL)
		panic("this one does not listen");
	listener.eh_func = NULL;
	COUNT(handlers, -1);
}

int
host_shut_down(void)
{
	if (listener.eh_func == NULL)
		return (ENOENT);
	listener.eh_func(listener.ee.ee_arg, 0);
	return (0);
}
