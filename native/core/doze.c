#include "doze.h"

#include <dlfcn.h>
#include <stddef.h>
#include <sys/epoll.h>

/* After a sleep that was not for the socket: how many callbacks do not try, twice as many each time. */
enum { SHY = 16, SHYEST = 4096 };
/* The versions (major and minor) whose descriptors have been seen to be level-triggered, and whose timeout to tell of new ones. */
enum { OLDEST = 1 << 8 | 48, NEWEST = 1 << 8 | 52, WITHOUT_END = -1 };

bool vfu_doze_allow(vfu_doze *d, void *loop, const char *file)
{
    void *library = dlopen(file, RTLD_NOW | RTLD_NOLOAD);
    vfu_uv uv;

    if (!library)
        return false;
    *(void **)&uv.version = dlsym(library, "uv_version");
    *(void **)&uv.backend_fd = dlsym(library, "uv_backend_fd");
    *(void **)&uv.backend_timeout = dlsym(library, "uv_backend_timeout");
    *(void **)&uv.update_time = dlsym(library, "uv_update_time");
    dlclose(library); /* who has the loop keeps it */
    if (!uv.version || !uv.backend_fd || !uv.backend_timeout || !uv.update_time || uv.version() >> 8 < OLDEST ||
        uv.version() >> 8 > NEWEST)
        return false;
    *d = (vfu_doze){.uv = uv, .loop = loop};
    return true;
}

void vfu_doze_begin(vfu_doze *d)
{
    d->here = d->loop && !d->shy;
    d->shy -= d->shy != 0;
}

bool vfu_doze_can(const vfu_doze *d)
{
    return d->here && d->uv.backend_timeout(d->loop) == WITHOUT_END;
}

bool vfu_doze_sleep(vfu_doze *d, int fd)
{
    struct epoll_event event;

    if (!vfu_doze_can(d))
        return false;
    d->sleeps++;
    if (epoll_wait(d->uv.backend_fd(d->loop), &event, 1, -1) == 1 && event.data.fd == fd && event.events == EPOLLIN) {
        d->uv.update_time(d->loop);
        d->served++;
        d->patience = 0;
        return true;
    }
    d->patience = !d->patience ? SHY : d->patience < SHYEST ? 2 * d->patience : SHYEST;
    d->shy = d->patience;
    return false;
}
