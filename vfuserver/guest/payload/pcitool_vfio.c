/*
 * pcitool's vfio-pci: a device through a type1 container and its group (linux/vfio.h), its regions, its interrupts.
 */

#include "pcitool.h"

#include <fcntl.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

int vfio_device(const char *bdf, int *container)
{
    char target[256], path[64];
    ssize_t length = readlink(sysfs_path(bdf, "iommu_group"), target, sizeof target - 1);
    if (length < 0)
        fail("%s is in no IOMMU group", bdf);
    target[length] = 0;
    snprintf(path, sizeof path, "/dev/vfio/%s", strrchr(target, '/') + 1);
    *container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
    int group = open(path, O_RDWR | O_CLOEXEC);
    if (*container < 0 || group < 0)
        fail("opening /dev/vfio/vfio and %s (is vfio-pci bound?)", path);
    if (ioctl(group, VFIO_GROUP_SET_CONTAINER, container))
        fail("VFIO_GROUP_SET_CONTAINER");
    if (ioctl(*container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
        fail("VFIO_SET_IOMMU");
    const char *name = strlen(bdf) < 12 ? (snprintf(target, sizeof target, "0000:%s", bdf), target) : bdf;
    int device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name);
    if (device < 0)
        fail("VFIO_GROUP_GET_DEVICE_FD %s", name);
    return device;
}

struct window vfio_window(int device, unsigned region)
{
    struct vfio_region_info info = {.argsz = sizeof info, .index = region};
    if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
        fail("VFIO_DEVICE_GET_REGION_INFO %u", region);
    struct window window = {.fd = device, .base = info.offset, .size = info.size};
    if (info.flags & VFIO_REGION_INFO_FLAG_MMAP) {
        void *map = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, info.offset);
        if (map == MAP_FAILED)
            fail("mmap of region %u", region);
        window.map = map;
    }
    return window;
}

void vfio_arm(int device, unsigned index, int *events, unsigned count)
{
    struct {
        struct vfio_irq_set set;
        int32_t fds[VECTORS_MOST];
    } request = {.set = {.argsz = sizeof request.set + count * sizeof(int32_t), .index = index, .count = count}};
    request.set.flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    for (unsigned vector = 0; vector < count; vector++) {
        events[vector] = request.fds[vector] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (events[vector] < 0)
            fail("eventfd");
    }
    if (ioctl(device, VFIO_DEVICE_SET_IRQS, &request))
        fail("VFIO_DEVICE_SET_IRQS of %u vectors at index %u", count, index);
}
