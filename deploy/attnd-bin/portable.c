/* SPDX-License-Identifier: MIT */
/* portable: linked into the programs of the wheel only (deploy/wheel). They are linked on Debian
 * 12, whose C library is 2.36, and run with 2.34 and later. The few names whose newest version is
 * younger than that are replaced here; auditwheel says when there are more. So is what would drag
 * in a Fortran run time, or leads to where only Debian keeps certificates.
 *
 * Linking in an older system was decided against: the libraries would be older too, and the oldest
 * that attnd builds with are Debian 12's. */
#include <dlfcn.h>
#include <link.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

/* 2.35 gave hypot a second version, which leaves errno to the caller's own check; the value is the
 * same. The linker puts __wrap_hypot in the place of hypot (--wrap). */
extern double portable_hypot(double x, double y);
__asm__(".symver portable_hypot, hypot@GLIBC_2.2.5");
double __wrap_hypot(double x, double y);

double __wrap_hypot(double x, double y)
{
    return portable_hypot(x, y);
}

/* 2.35 finds the unwind table of an address for libgcc, whose static copy relies on it: C++ needs
 * it to throw, in libzmq. The same is found by dl_iterate_phdr. */
int _dl_find_object(void *address, struct dl_find_object *ret);

static int portable_object_of(struct dl_phdr_info *info, size_t size, void *context)
{
    struct dl_find_object *found = context;
    uintptr_t wanted = (uintptr_t)found->dlfo_map_start;
    const ElfW(Phdr) *table = NULL, *around = NULL;
    (void)size;
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_GNU_EH_FRAME) {
            table = segment;
        } else if (segment->p_type == PT_LOAD &&
                   wanted - (info->dlpi_addr + segment->p_vaddr) < segment->p_memsz) {
            around = segment;
        }
    }
    if (!around || !table) {
        return 0;
    }
    found->dlfo_map_start = (void *)(uintptr_t)(info->dlpi_addr + around->p_vaddr);
    found->dlfo_map_end = (void *)(uintptr_t)(info->dlpi_addr + around->p_vaddr + around->p_memsz);
    found->dlfo_eh_frame = (void *)(uintptr_t)(info->dlpi_addr + table->p_vaddr);
    return 1;
}

int _dl_find_object(void *address, struct dl_find_object *ret)
{
    struct dl_find_object found = {.dlfo_map_start = address};
    if (dl_iterate_phdr(portable_object_of, &found) == 0) {
        return -1;
    }
    *ret = found;
    return 0;
}

/* All that LAPACK takes of the Fortran run time, which is not linked: joins two strings, and pads
 * the target with blanks. OpenBLAS has a xerbla that needs no Fortran. */
void _gfortran_concat_string(size_t length, char *ret, size_t length_a, const char *a,
                             size_t length_b, const char *b);

void _gfortran_concat_string(size_t length, char *ret, size_t length_a, const char *a,
                             size_t length_b, const char *b)
{
    for (size_t i = 0; i < length; i++) {
        ret[i] = i < length_a ? a[i] : i - length_a < length_b ? b[i - length_a] : ' ';
    }
}

/* OpenSSL looks for certificates of authorities where Debian keeps them. Other distributions keep
 * them elsewhere; SSL_CERT_FILE and SSL_CERT_DIR name another place, as ever. These replace the
 * functions of OpenSSL's x509_def.c, all of them, so that it is not linked. */
static const char *const files[] = {
    "/etc/ssl/certs/ca-certificates.crt",                /* Debian, Ubuntu, Arch, Alpine */
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", /* RHEL, Rocky, Fedora */
    "/etc/pki/tls/certs/ca-bundle.crt",                  /* older ones of these */
    "/etc/ssl/ca-bundle.pem",                            /* SUSE */
    "/etc/ssl/cert.pem",
};

const char *X509_get_default_cert_file(void);
const char *X509_get_default_cert_dir(void);
const char *X509_get_default_cert_area(void);
const char *X509_get_default_private_dir(void);
const char *X509_get_default_cert_file_env(void);
const char *X509_get_default_cert_dir_env(void);

const char *X509_get_default_cert_file(void)
{
    size_t i = 0;
    while (i + 1 < sizeof files / sizeof *files && access(files[i], R_OK) != 0) {
        i++;
    }
    return files[i];
}

const char *X509_get_default_cert_dir(void)
{
    return "/etc/ssl/certs";
}

const char *X509_get_default_cert_area(void)
{
    return "/etc/ssl";
}

const char *X509_get_default_private_dir(void)
{
    return "/etc/ssl/private";
}

const char *X509_get_default_cert_file_env(void)
{
    return "SSL_CERT_FILE";
}

const char *X509_get_default_cert_dir_env(void)
{
    return "SSL_CERT_DIR";
}
