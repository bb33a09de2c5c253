/* macOS's calls with the prototypes of Apple's headers, in one library: what they were given is written down.
   A wrong width or a cut pointer shows here, on any system; what the real ones do with it does not. */

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char seen[8192];

static void note(const char *format, ...) {
    size_t end = strlen(seen);
    va_list more;
    va_start(more, format);
    vsnprintf(seen + end, sizeof seen - end, format, more);
    va_end(more);
}

const char *played_seen(void) { return seen; }
void played_forget(void) { seen[0] = 0; }

static int fails(int number) { errno = number; return -1; }

/* <sandbox.h>, and libsandbox's as WebKit declares it */
int sandbox_init(const char *profile, uint64_t flags, char **errorbuf) {
    note("sandbox_init %s %llu\n", profile, (unsigned long long)flags);
    if (!strstr(profile, "unknown-rule")) return 0;
    *errorbuf = strdup("unbound variable: unknown-rule");
    return -1;
}

void sandbox_free_error(char *errorbuf) {
    note("sandbox_free_error %s\n", errorbuf);
    free(errorbuf);
}

int sandbox_check(pid_t pid, const char *operation, int type, ...) {
    const char *subject = "";
    if (type == 12) { /* SANDBOX_FILTER_XPC_SERVICE_NAME */
        va_list more;
        va_start(more, type);
        subject = va_arg(more, const char *);
        va_end(more);
    }
    note("sandbox_check %d %s %d %s\n", pid == getpid(), operation ? operation : "NULL", type, subject);
    if (operation && !strcmp(operation, "unknown")) return fails(EINVAL);
    return operation != NULL;
}

/* <servers/bootstrap.h> */
uint32_t bootstrap_port = 0x80000707;

int bootstrap_look_up(uint32_t session, const char *name, uint32_t *port) {
    *port = 0x80000808;
    note("bootstrap_look_up %x %s\n", session, name);
    return strcmp(name, "com.apple.there") ? 1100 : 0;
}

/* libsystem_coreservices */
bool _set_user_dir_suffix(const char *suffix) {
    note("_set_user_dir_suffix %s\n", suffix);
    return !strchr(suffix, '/');
}

/* <sys/clonefile.h> */
int clonefile(const char *source, const char *target, uint32_t flags) {
    note("clonefile %s %s %u\n", source, target, flags);
    return strcmp(target, "taken") ? 0 : fails(EEXIST);
}

/* <sys/resource.h>, <libproc.h> */
struct rusage_info_v4 {
    uint8_t ri_uuid[16];
    uint64_t ri_user_time, ri_system_time, ri_pkg_idle_wkups, ri_interrupt_wkups, ri_pageins, ri_wired_size;
    uint64_t ri_resident_size, ri_phys_footprint, ri_proc_start_abstime, ri_proc_exit_abstime;
    uint64_t ri_child_user_time, ri_child_system_time, ri_child_pkg_idle_wkups, ri_child_interrupt_wkups;
    uint64_t ri_child_pageins, ri_child_elapsed_abstime, ri_diskio_bytesread, ri_diskio_byteswritten;
    uint64_t ri_cpu_time_qos_default, ri_cpu_time_qos_maintenance, ri_cpu_time_qos_background;
    uint64_t ri_cpu_time_qos_utility, ri_cpu_time_qos_legacy, ri_cpu_time_qos_user_initiated;
    uint64_t ri_cpu_time_qos_user_interactive, ri_billed_system_time, ri_serviced_system_time, ri_logical_writes;
    uint64_t ri_lifetime_max_phys_footprint, ri_instructions, ri_cycles, ri_billed_energy, ri_serviced_energy;
    uint64_t ri_interval_max_phys_footprint, ri_runnable_time;
};

int proc_pid_rusage(int pid, int flavor, void **buffer) {
    struct rusage_info_v4 told;
    note("proc_pid_rusage %d %d\n", pid, flavor);
    if (pid == 1) return fails(EPERM);
    memset(&told, 0xEE, sizeof told);
    told.ri_phys_footprint = 6ull << 30;
    told.ri_lifetime_max_phys_footprint = 7ull << 30;
    told.ri_proc_start_abstime = 5ull << 40;
    memcpy(buffer, &told, sizeof told);
    return 0;
}

/* <unistd.h> */
int gethostuuid(unsigned char id[16], const struct timespec *wait) {
    note("gethostuuid %ld %ld\n", (long)wait->tv_sec, wait->tv_nsec);
    memset(id, 0xAB, 16);
    return 0;
}

/* <sys/sysctl.h> */
int sysctlbyname(const char *name, void *old, size_t *room, void *new, size_t size) {
    const char *text = "A-BOOT-SESSION";
    uint32_t four = 12288;
    uint64_t eight = 64ull << 30;
    const void *value = NULL;
    size_t length = 0;
    note("sysctlbyname %s %zu %p %zu\n", name, *room, new, size);
    if (!strcmp(name, "kern.bootsessionuuid")) value = text, length = strlen(text) + 1;
    if (!strcmp(name, "iogpu.wired_limit_mb")) value = &four, length = 4;
    if (!strcmp(name, "hw.memsize")) value = &eight, length = 8;
    if (!value) return fails(ENOENT);
    if (*room < length) return fails(ENOMEM);
    memcpy(old, value, length);
    *room = length;
    return 0;
}

/* <CoreFoundation/CFString.h>: pointers that do not fit 32 bits */
static int strings;

const void *CFStringCreateWithCString(const void *allocator, const char *text, uint32_t encoding) {
    char *made = strdup(text);
    note("CFStringCreateWithCString %d %s %x\n", allocator == NULL, made, encoding);
    strings++;
    return made;
}

void CFRelease(const void *object) {
    strings--;
    free((void *)object);
}

int played_strings(void) { return strings; }

/* <IOKit/pwr_mgt/IOPMLib.h> */
int IOPMAssertionCreateWithName(const void *type, uint32_t level, const void *name, uint32_t *token) {
    note("IOPMAssertionCreateWithName %s %u %s\n", (const char *)type, level, (const char *)name);
    if (!strcmp(name, "refused")) return 0xE00002C1 - 0x100000000; /* kIOReturnNotPrivileged */
    *token = 0x8000ABCD;
    return 0;
}

int IOPMAssertionRelease(uint32_t token) {
    note("IOPMAssertionRelease %x\n", token);
    return 0;
}

/* <objc/message.h>, for NSProcessInfo */
static char class_there[] = "class", object[] = "object";
static bool before_12;

void played_before_12(bool is) { before_12 = is; }
void *objc_getClass(const char *name) { return strcmp(name, "NSProcessInfo") ? NULL : class_there; }
void *sel_registerName(const char *name) { return strdup(name); } /* registered for good, as there */

uintptr_t objc_msgSend(void *self, const char *selector, const char *argument) {
    if (self == class_there && !strcmp(selector, "processInfo")) return (uintptr_t)object;
    if (self != object) return 0;
    if (!strcmp(selector, "respondsToSelector:"))
        return !strcmp(argument, "thermalState") || (!strcmp(argument, "isLowPowerModeEnabled") && !before_12);
    if (!strcmp(selector, "isLowPowerModeEnabled")) return 1;
    if (!strcmp(selector, "thermalState")) return 2;
    return 0;
}
