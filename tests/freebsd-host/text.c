// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* printf(9), as far as the module and this host use it. */
#include <sys/param.h>
#include <sys/systm.h>
#include <sys/stdarg.h>

#include "host.h"

struct text {
	char *to;
	size_t room;
	size_t length;
};

static void
add(struct text *text, char byte)
{
	if (text->length + 1 < text->room)
		text->to[text->length] = byte;
	text->length++;
}

static void
add_number(struct text *text, u_long value, u_int base)
{
	char digits[20];
	int count = 0;

	do {
		digits[count++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value != 0);
	while (count != 0)
		add(text, digits[--count]);
}

static void
add_text(struct text *text, const char *from, int most)
{
	for (; most != 0 && *from != 0; from++, most--)
		add(text, *from);
}

static size_t
format(char *to, size_t room, const char *how, va_list values)
{
	struct text text = { to, room, 0 };
	bool wide;
	long number;
	int most;

	for (; *how != 0; how++) {
		if (*how != '%') {
			add(&text, *how);
			continue;
		}
		wide = false;
		most = -1;
		how++;
		if (how[0] == '.' && how[1] == '*') {
			most = va_arg(values, int);
			how += 2;
		}
		if (*how == 'l') {
			wide = true;
			how++;
		}
		switch (*how) {
		case 'd':
			number = wide ? va_arg(values, long) :
			    va_arg(values, int);
			if (number < 0)
				add(&text, '-');
			add_number(&text, number < 0 ? -number : number, 10);
			break;
		case 'u':
		case 'x':
			add_number(&text, wide ? va_arg(values, u_long) :
			    va_arg(values, u_int), *how == 'u' ? 10 : 16);
			break;
		case 'p':
			add_number(&text, (u_long)va_arg(values, void *), 16);
			break;
		case 's':
			add_text(&text, va_arg(values, char *), most);
			break;
		default:
			add(&text, '%');
			add(&text, *how);
		}
	}
	if (room != 0)
		to[MIN(text.length, room - 1)] = 0;
	return (text.length);
}

int
snprintf(char *to, size_t room, const char *how, ...)
{
	va_list values;
	size_t length;

	va_start(values, how);
	length = format(to, room, how, values);
	va_end(values);
	return (length);
}

int
printf(const char *how, ...)
{
	char line[200];
	va_list values;
	size_t length;

	va_start(values, how);
	length = format(line, sizeof(line), how, values);
	va_end(values);
	bare_print(line, MIN(length, sizeof(line) - 1));
	return (length);
}

void
panic(const char *how, ...)
{
	char line[200];
	va_list values;
	size_t length;

	va_start(values, how);
	length = format(line, sizeof(line), how, values);
	va_end(values);
	bare_fail(line, MIN(length, sizeof(line) - 1));
}

#undef strcmp
int
strcmp(const char *one, const char *other)
{
	for (; *one == *other; one++, other++)
		if (*one == 0)
			return (0);
	return ((u_char)*one - (u_char)*other);
}

#undef memcpy
#undef memmove
#undef memset
void *
memcpy(void *to, const void *from, size_t size)
{
	void *result = to;

	__asm __volatile("rep movsb" : "+D" (to), "+S" (from), "+c" (size) : :
	    "memory");
	return (result);
}

void *
memmove(void *to, const void *from, size_t size)
{
	char *last;
	const char *source;

	if ((uintptr_t)to - (uintptr_t)from >= size)
		return (memcpy(to, from, size));
	last = (char *)to + size - 1;
	source = (const char *)from + size - 1;
	__asm __volatile("std; rep movsb; cld" :
	    "+D" (last), "+S" (source), "+c" (size) : : "memory");
	return (to);
}

void *
memset(void *to, int byte, size_t size)
{
	void *result = to;

	__asm __volatile("rep stosb" : "+D" (to), "+c" (size) : "a" (byte) :
	    "memory");
	return (result);
}
